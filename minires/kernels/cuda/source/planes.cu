// Reading and adding at flat positions of planes, `indices` (n, p, q, channels): max pooling's gradient, and the
// transpose of it.

template <typename T>
__global__ void __launch_bounds__(256, 4)
gather_planes(const T* x, const long long* indices, T* y, Index plane, int channels, Index outputs, Index size) {
    for (Index i = first_index(); i < size; i += index_step()) {
        Index image = i / (outputs * channels);
        y[i] = x[(image * plane + indices[i]) * channels + i % channels];
    }
}

// The least and greatest row of x that output row b of all images points to (for b < p), and the same for columns.
// A block for each output row and column; lows and highs are (p + q,).
__global__ void __launch_bounds__(256, 4)
reach(const long long* indices, int* lows, int* highs, int width, int channels, Index images, int p, int q) {
    __shared__ int low[256], high[256];
    int line = blockIdx.x, thread = threadIdx.x;
    bool is_row = line < p;
    low[thread] = 0x7fffffff, high[thread] = -1;
    for (Index i = thread; i < images * (is_row ? q : p) * channels; i += blockDim.x) {
        Index image = i;
        int c = pop(image, channels), along = pop(image, is_row ? q : p);
        Index output = is_row ? (image * p + line) * q + along : (image * p + along) * q + line - p;
        long long index = indices[output * channels + c];
        int pixel = static_cast<int>(is_row ? index / width : index % width);
        low[thread] = min(low[thread], pixel), high[thread] = max(high[thread], pixel);
    }
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half) {
            low[thread] = min(low[thread], low[thread + half]);
            high[thread] = max(high[thread], high[thread + half]);
        }
    }
    if (thread == 0) lows[line] = low[0], highs[line] = high[0];
}

// The first and last output row that may point to each row of x, and the same for columns; both (height + width,).
__global__ void __launch_bounds__(256, 4)
reached_by(const int* lows, const int* highs, int* firsts, int* lasts, int height, int width, int p, int q) {
    for (Index i = first_index(); i < height + width; i += index_step()) {
        bool is_row = i < height;
        int pixel = static_cast<int>(is_row ? i : i - height), start = is_row ? 0 : p, count = is_row ? p : q;
        int first = count, last = -1;
        for (int line = 0; line < count; line++)
            if (lows[start + line] <= pixel && pixel <= highs[start + line]) first = min(first, line), last = line;
        firsts[i] = first, lasts[i] = last;
    }
}

// dx: each pixel collects dy from the outputs that point to it, in their order, so that no sum depends on timing.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
add_to_planes(const T* dy, const long long* indices, const int* firsts, const int* lasts, T* dx, int height, int width,
              int channels, int p, int q, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int c = pop(image, channels), w = pop(image, width), h = pop(image, height);
        W sum[V] = {};
        for (int row = firsts[h]; row <= lasts[h]; row++)
            for (int column = firsts[height + w]; column <= lasts[height + w]; column++) {
                Index at = ((image * p + row) * q + column) * channels + c;
                Vector<T, V> g = load<V>(dy, at);
                for (int k = 0; k < V; k++)
                    if (indices[at + k] == Index(h) * width + w) sum[k] += value(g.at[k]);
            }
        Vector<T, V> v;
        for (int k = 0; k < V; k++) assign(v.at[k], sum[k]);
        store(dx, i, v);
    }
}
