// Steps of optimizers over many tensors in one launch and one pass over memory.
//
// A row of a table holds the addresses of a tensor's arrays and its size. A block takes one chunk of one tensor:
// chunks[2 * block] is the tensor, chunks[2 * block + 1] counts its chunks of CHUNK elements. The first words of an
// optimizer's table are its options, doubles. Where `skip` is given and not 0, nothing is changed.
const int CHUNK = 1 << 14;

// SGD with momentum, as minires.optim.SGD. Options: learning rate, momentum, dampening, weight decay. A row: parameter,
// gradient, velocity (0 without momentum), size.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
sgd(const long long* table, const int* chunks, const int* skip, int nesterov, int maximize, int is_first) {
    typedef typename Wide<T>::type W;
    if (skip && *skip) return;
    const double* options = reinterpret_cast<const double*>(table);
    double lr = options[0], momentum = options[1], dampening = options[2], weight_decay = options[3];
    const long long* row = table + 4 + Index(4) * chunks[2 * blockIdx.x];
    T *parameter = reinterpret_cast<T*>(row[0]), *velocity = reinterpret_cast<T*>(row[2]);
    const T* gradient = reinterpret_cast<const T*>(row[1]);
    Index begin = Index(chunks[2 * blockIdx.x + 1]) * CHUNK, end = min(row[3], begin + CHUNK);
    W rate = W(lr), kept = W(momentum), taken = is_first ? W(1) : W(1 - dampening), decay = W(weight_decay);
    for (Index i = begin + threadIdx.x * V; i < end; i += blockDim.x * V) {
        Vector<T, V> p = load<V>(parameter, i, end), g = load<V>(gradient, i, end), v = {};
        if (velocity && !is_first) v = load<V>(velocity, i, end);
        for (int k = 0; k < V; k++) {
            W direction = (maximize ? -value(g.at[k]) : value(g.at[k])) + decay * value(p.at[k]);
            if (velocity) {
                W speed = (is_first ? W(0) : kept * value(v.at[k])) + taken * direction;
                assign(v.at[k], speed);
                direction = nesterov ? direction + kept * speed : speed;
            }
            assign(p.at[k], value(p.at[k]) - rate * direction);
        }
        store(parameter, i, end, p);
        if (velocity) store(velocity, i, end, v);
    }
}

// Adam and AdamW, as minires.optim.Adam. Options: beta1, beta2, eps, weight decay, stride = lr / (1 - beta1^t),
// root = sqrt(1 - beta2^t), shrink, what AdamW multiplies parameters with, or 1. A row: parameter, gradient, mean,
// square, greatest square (0 without), size.
template <typename T, int V>
__global__ void __launch_bounds__(256, 2)
adam(const long long* table, const int* chunks, const int* skip, int maximize) {
    typedef typename Wide<T>::type W;
    if (skip && *skip) return;
    const double* options = reinterpret_cast<const double*>(table);
    double beta1 = options[0], beta2 = options[1], eps = options[2], weight_decay = options[3], stride = options[4];
    double root = options[5], shrink = options[6];
    const long long* row = table + 7 + Index(6) * chunks[2 * blockIdx.x];
    T *parameter = reinterpret_cast<T*>(row[0]), *means = reinterpret_cast<T*>(row[2]);
    T *squares = reinterpret_cast<T*>(row[3]), *largest = reinterpret_cast<T*>(row[4]);
    const T* gradient = reinterpret_cast<const T*>(row[1]);
    Index begin = Index(chunks[2 * blockIdx.x + 1]) * CHUNK, end = min(row[5], begin + CHUNK);
    for (Index i = begin + threadIdx.x * V; i < end; i += blockDim.x * V) {
        Vector<T, V> p = load<V>(parameter, i, end), g = load<V>(gradient, i, end);
        Vector<T, V> m = load<V>(means, i, end), s = load<V>(squares, i, end), top = {};
        if (largest) top = load<V>(largest, i, end);
        for (int k = 0; k < V; k++) {
            W before = value(p.at[k]) * W(shrink);
            W direction = (maximize ? -value(g.at[k]) : value(g.at[k])) + W(weight_decay) * before;
            W mean = W(beta1) * value(m.at[k]) + W(1 - beta1) * direction;
            W square = W(beta2) * value(s.at[k]) + W(1 - beta2) * direction * direction;
            assign(m.at[k], mean), assign(s.at[k], square);
            if (largest) {
                square = max(square, value(top.at[k]));
                assign(top.at[k], square);
            }
            assign(p.at[k], before - W(stride) * mean / (sqrt(square) / W(root) + W(eps)));
        }
        store(parameter, i, end, p), store(means, i, end, m), store(squares, i, end, s);
        if (largest) store(largest, i, end, top);
    }
}

// Gradients times a factor, in place; `found` becomes 1 where one is Inf or NaN, and is left alone elsewhere. Where
// `factor_there` is given, the factor is read from it. A row: gradient, size.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
unscale(const long long* tensors, const int* chunks, double factor, const double* factor_there, int* found) {
    typedef typename Wide<T>::type W;
    if (factor_there) factor = *factor_there;
    const long long* row = tensors + Index(2) * chunks[2 * blockIdx.x];
    T* gradient = reinterpret_cast<T*>(row[0]);
    Index begin = Index(chunks[2 * blockIdx.x + 1]) * CHUNK, end = min(row[1], begin + CHUNK);
    bool finite = true;
    for (Index i = begin + threadIdx.x * V; i < end; i += blockDim.x * V) {
        Vector<T, V> g = load<V>(gradient, i, end);
        for (int k = 0; k < V; k++) {
            W scaled = value(g.at[k]) * W(factor);
            finite = finite && scaled - scaled == 0;  // a bound of the type would do for Inf, but not for NaN
            assign(g.at[k], scaled);
        }
        if (factor != 1) store(gradient, i, end, g);
    }
    if (!finite) *found = 1;  // by any number of threads, all with the same value
}
