// Pooling over windows given as tables: the rows (p, r) and columns (q, s) that each window meets, -1 for padding.

// The maximum of each window and its flat position; a NaN beats every number, among equals the first wins.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
window_max(const T* x, const int* rows, const int* columns, T* y, long long* indices, int height, int width,
           int channels, int p, int q, int r, int s, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int c = pop(image, channels), column = pop(image, q), row = pop(image, p);
        Vector<T, V> best;
        Index winner[V] = {};
        bool empty = true;
        for (int k = 0; k < V; k++) assign(best.at[k], -W(infinity()));
        for (int tap = 0; tap < r * s; tap++) {
            int h = rows[row * r + tap / s], w = columns[column * s + tap % s];
            if (h < 0 || w < 0) continue;
            Index here = Index(h) * width + w;
            Vector<T, V> v = load<V>(x, (image * height * width + here) * channels + c);
            for (int k = 0; k < V; k++) {
                W candidate = value(v.at[k]);
                if (empty || candidate > value(best.at[k]) || candidate != candidate)
                    best.at[k] = v.at[k], winner[k] = here;
            }
            empty = false;
        }
        store(y, i, best);
        for (int k = 0; k < V; k++) indices[i + k] = winner[k];
    }
}

// The sum over each window, divided by its row and column counts (p,) and (q,) unless they are null.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
window_sum(const T* x, const int* rows, const int* columns, const int* row_counts, const int* column_counts, T* y,
           int height, int width, int channels, int p, int q, int r, int s, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int c = pop(image, channels), column = pop(image, q), row = pop(image, p);
        W sum[V] = {};
        for (int tap = 0; tap < r * s; tap++) {
            int h = rows[row * r + tap / s], w = columns[column * s + tap % s];
            if (h < 0 || w < 0) continue;
            Vector<T, V> v = load<V>(x, ((image * height + h) * width + w) * channels + c);
            for (int k = 0; k < V; k++) sum[k] += value(v.at[k]);
        }
        W divisor = row_counts ? W(row_counts[row]) * W(column_counts[column]) : W(1);
        Vector<T, V> v;
        for (int k = 0; k < V; k++) assign(v.at[k], sum[k] / divisor);
        store(y, i, v);
    }
}

// The transpose of window_sum. Here rows (h, r) and columns (w, s) list the windows that meet each pixel, -1 for none.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
window_sum_grad(const T* dy, const int* rows, const int* columns, const int* row_counts, const int* column_counts,
                T* dx, int height, int width, int channels, int p, int q, int r, int s, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int c = pop(image, channels), w = pop(image, width), h = pop(image, height);
        W sum[V] = {};
        for (int tap = 0; tap < r * s; tap++) {
            int row = rows[h * r + tap / s], column = columns[w * s + tap % s];
            if (row < 0 || column < 0) continue;
            Vector<T, V> g = load<V>(dy, ((image * p + row) * q + column) * channels + c);
            W divisor = row_counts ? W(row_counts[row]) * W(column_counts[column]) : W(1);
            for (int k = 0; k < V; k++) sum[k] += value(g.at[k]) / divisor;
        }
        Vector<T, V> v;
        for (int k = 0; k < V; k++) assign(v.at[k], sum[k]);
        store(dx, i, v);
    }
}
