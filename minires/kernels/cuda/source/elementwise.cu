// Elementwise kernels over all numbers in memory order.

template <typename T, int V>
__global__ void __launch_bounds__(256, 4) add(const T* a, const T* b, T* total, Index size) {
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Vector<T, V> x = load<V>(a, i, size), y = load<V>(b, i, size);
        for (int k = 0; k < V; k++) assign(x.at[k], value(x.at[k]) + value(y.at[k]));
        store(total, i, size, x);
    }
}

template <typename T, int V> __global__ void __launch_bounds__(256, 4) relu(const T* x, T* y, Index size) {
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Vector<T, V> v = load<V>(x, i, size);
        for (int k = 0; k < V; k++)
            if (value(v.at[k]) <= 0) v.at[k] = T{};  // in this form a NaN stays
        store(y, i, size, v);
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(256, 4) relu_grad(const T* dy, const T* y, T* dx, Index size) {
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Vector<T, V> g = load<V>(dy, i, size), output = load<V>(y, i, size);
        for (int k = 0; k < V; k++)
            if (value(output.at[k]) <= 0) g.at[k] = T{};
        store(dx, i, size, g);
    }
}

template <typename T, int V> __global__ void __launch_bounds__(256, 4) error_function(const T* x, T* y, Index size) {
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Vector<T, V> v = load<V>(x, i, size);
        for (int k = 0; k < V; k++) assign(v.at[k], erf(value(v.at[k])));
        store(y, i, size, v);
    }
}

// y = x in another type; V of the wider one are 16 bytes.
template <typename T, typename U, int V>
__global__ void __launch_bounds__(256, 4) cast(const T* x, U* y, Index size) {
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Vector<T, V> from = load<V>(x, i, size);
        Vector<U, V> to;
        for (int k = 0; k < V; k++) assign(to.at[k], static_cast<typename Wide<U>::type>(value(from.at[k])));
        store(y, i, size, to);
    }
}

// y += bias + residual, then ReLU, over y (pixels, channels) in place; residual may be null. V divides channels.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
add_bias_relu(T* y, const T* bias, const T* residual, int is_relu, int channels, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index position = i;
        int channel = pop(position, channels);
        Vector<T, V> v = load<V>(y, i), shift = load<V>(bias, channel), added = {};
        if (residual) added = load<V>(residual, i);
        for (int k = 0; k < V; k++) {
            W sum = value(v.at[k]) + value(shift.at[k]) + value(added.at[k]);
            assign(v.at[k], is_relu && sum <= 0 ? W(0) : sum);
        }
        store(y, i, v);
    }
}
