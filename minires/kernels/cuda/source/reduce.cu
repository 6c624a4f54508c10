// Sums over the middle of x (outer, length, inner), without atomics: parts of `height` in double precision, joined in
// their order. Short sums are in Wide<T>. A sum that has only one part goes to y at once; `parts` is null then.
const int LANES = 32, TEAMS = 8, BATCH = 4;

__device__ inline double sum_over_warp(double x) {
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_down_sync(~0u, x, step);
    return x;
}

// inner > 1: a block goes down `height` rows of 32 * V columns, `across` blocks side by side; parts (outer, chunks,
// inner).
template <typename T, int V>
__global__ void __launch_bounds__(256)
sum_columns(const T* x, double* parts, T* y, Index length, int inner, int across, int chunks, Index height) {
    typedef typename Wide<T>::type W;
    __shared__ double shared[TEAMS][LANES * V];
    Index outer = blockIdx.x;
    int lane = threadIdx.x, team = threadIdx.y, column = (pop(outer, across) * LANES + lane) * V;
    Index part = outer * inner, chunk = pop(outer, chunks), end = min(length, (chunk + 1) * height);
    double total[V] = {};
    for (Index row = chunk * height + team; row < end && column < inner; row += TEAMS * BATCH) {
        Vector<T, V> batch[BATCH];
        for (int j = 0; j < BATCH; j++)
            if (row + j * TEAMS < end) batch[j] = load<V>(x, (outer * length + row + j * TEAMS) * inner + column);
        for (int k = 0; k < V; k++) {
            W sum = 0;
            for (int j = 0; j < BATCH; j++)
                if (row + j * TEAMS < end) sum += value(batch[j].at[k]);
            total[k] += sum;
        }
    }
    for (int k = 0; k < V; k++) shared[team][lane * V + k] = total[k];
    __syncthreads();
    if (team > 0 || column >= inner) return;
    for (int k = 0; k < V; k++) {
        for (int other = 1; other < TEAMS; other++) total[k] += shared[other][lane * V + k];
        if (parts) parts[part + column + k] = total[k];
        else assign(y[part + column + k], static_cast<W>(total[k]));
    }
}

// Short sums, of which there are enough for a thread each; V divides inner.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4) sum_short(const T* x, T* y, Index length, int inner, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index outer = i;
        int column = pop(outer, inner);
        W total[V] = {};
        for (Index row = 0; row < length; row++) {
            Vector<T, V> v = load<V>(x, (outer * length + row) * inner + column);
            for (int k = 0; k < V; k++) total[k] += value(v.at[k]);
        }
        Vector<T, V> sums;
        for (int k = 0; k < V; k++) assign(sums.at[k], total[k]);
        store(y, i, sums);
    }
}

// inner = 1: a warp takes `height` neighbours; parts (outer, chunks), `items` of them. V divides length and height.
template <typename T, int V>
__global__ void __launch_bounds__(256)
sum_rows(const T* x, double* parts, T* y, Index length, int chunks, Index height, Index items) {
    typedef typename Wide<T>::type W;
    for (Index base = Index(blockIdx.x) * TEAMS; base < items; base += Index(gridDim.x) * TEAMS) {
        Index item = base + threadIdx.y, outer = item / chunks, chunk = item - outer * chunks;
        Index end = item < items ? min(length, (chunk + 1) * height) : 0;  // all lanes stay for the shuffles
        double total = 0;
        for (Index i = chunk * height + threadIdx.x * V; i < end; i += LANES * V) {
            Vector<T, V> v = load<V>(x, outer * length + i);
            W sum = 0;
            for (int k = 0; k < V; k++) sum += value(v.at[k]);
            total += sum;
        }
        total = sum_over_warp(total);
        if (threadIdx.x > 0 || item >= items) continue;
        if (parts) parts[item] = total;
        else assign(y[item], static_cast<W>(total));
    }
}

// y (outer, inner) from parts (outer, chunks, inner): one warp a sum.
template <typename T>
__global__ void __launch_bounds__(256) join_parts(const double* parts, T* y, int inner, int chunks, Index items) {
    for (Index base = Index(blockIdx.x) * TEAMS; base < items; base += Index(gridDim.x) * TEAMS) {
        Index item = base + threadIdx.y, outer = item / inner, column = item - outer * inner;
        double total = 0;
        for (int chunk = threadIdx.x; item < items && chunk < chunks; chunk += LANES)
            total += parts[(outer * chunks + chunk) * inner + column];
        total = sum_over_warp(total);
        if (threadIdx.x == 0 && item < items) assign(y[item], static_cast<typename Wide<T>::type>(total));
    }
}
