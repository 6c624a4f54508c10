// The gradients of batch norm over (rows, columns), cut into blocks as in norm.cu; g is dy where the ReLU was open: read
// from the output y, or without one (null) computed from x once more where there `is_gated`.
const int LANES = 32, TEAMS = 8;

// What the ReLU of a channel saw: (x - centre) * scale + offset, as in norm.cu.
template <typename W> struct Gate {
    W centre, scale, offset;
    __device__ bool is_shut(W x) const { return (x - centre) * scale + offset <= 0; }
};

template <typename W>
__device__ Gate<W> gate_of(int channel, const W* mean, const W* invstd, const W* weight, const W* bias) {
    return {mean[channel], invstd[channel] * (weight ? weight[channel] : W(1)), bias ? bias[channel] : W(0)};
}

// Sums of g and of g * (x - mean) in each column within the rows of each block, both (chunks, columns).
template <typename T, int V>
__global__ void __launch_bounds__(256)
gradient_sums(const T* dy, const T* x, const T* y, const typename Wide<T>::type* mean,
              const typename Wide<T>::type* invstd, const typename Wide<T>::type* weight,
              const typename Wide<T>::type* bias, int is_gated, double* sums, double* products, Index rows, int columns,
              int channels, Index height) {
    typedef typename Wide<T>::type W;
    const int BATCH = V > 4 ? 2 : 4;  // rows of three arrays at once, as many as there are registers for
    __shared__ double shared_sum[TEAMS][LANES * V], shared_product[TEAMS][LANES * V];
    int lane = threadIdx.x, team = threadIdx.y, column = (blockIdx.y * LANES + lane) * V;
    Index end = min(rows, (blockIdx.x + Index(1)) * height);
    double sum[V] = {}, product[V] = {};
    for (Index row = blockIdx.x * height + team; row < end && column < columns; row += TEAMS * BATCH) {
        Vector<T, V> g[BATCH], input[BATCH], output[BATCH];
        for (int j = 0; j < BATCH; j++) {
            if (row + j * TEAMS >= end) continue;
            Index at = (row + j * TEAMS) * columns + column;
            g[j] = load<V>(dy, at), input[j] = load<V>(x, at);
            if (y) output[j] = load<V>(y, at);
        }
        for (int k = 0; k < V; k++) {
            Gate<W> gate = gate_of((column + k) % channels, mean, invstd, weight, bias);
            W short_sum = 0, short_product = 0;
            for (int j = 0; j < BATCH; j++) {
                if (row + j * TEAMS >= end) continue;
                if (y ? value(output[j].at[k]) <= 0 : is_gated && gate.is_shut(value(input[j].at[k]))) continue;
                short_sum += value(g[j].at[k]);
                short_product += value(g[j].at[k]) * (value(input[j].at[k]) - gate.centre);
            }
            sum[k] += short_sum, product[k] += short_product;
        }
    }
    for (int k = 0; k < V; k++) {
        shared_sum[team][lane * V + k] = sum[k];
        shared_product[team][lane * V + k] = product[k];
    }
    __syncthreads();
    if (team > 0 || column >= columns) return;
    for (int k = 0; k < V; k++) {
        for (int other = 1; other < TEAMS; other++) {
            sum[k] += shared_sum[other][lane * V + k];
            product[k] += shared_product[other][lane * V + k];
        }
        sums[Index(blockIdx.x) * columns + column + k] = sum[k];
        products[Index(blockIdx.x) * columns + column + k] = product[k];
    }
}

// dbias = sum of g, dweight = sum of g * (x - mean) * invstd of each channel: one warp a channel.
template <typename T>
__global__ void __launch_bounds__(256)
join_sums(const double* sums, const double* products, const typename Wide<T>::type* invstd,
          typename Wide<T>::type* dweight, typename Wide<T>::type* dbias, int columns, int chunks, int channels) {
    int channel = blockIdx.x * TEAMS + threadIdx.y, folds = columns / channels;
    double sum = 0, product = 0;
    for (int part = threadIdx.x; channel < channels && part < chunks * folds; part += LANES) {
        Index at = Index(part / folds) * columns + part % folds * channels + channel;
        sum += sums[at], product += products[at];
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        sum += __shfl_down_sync(~0u, sum, step);
        product += __shfl_down_sync(~0u, product, step);
    }
    if (threadIdx.x == 0 && channel < channels) {
        dbias[channel] = static_cast<typename Wide<T>::type>(sum);
        dweight[channel] = static_cast<typename Wide<T>::type>(product * invstd[channel]);
    }
}

// dx, and dresidual = g if asked for. In training, `count` values a channel, the statistics depend on x as well.
template <typename T, int V>
__global__ void __launch_bounds__(256)
input_grad(const T* dy, const T* x, const T* y, const typename Wide<T>::type* mean,
           const typename Wide<T>::type* invstd, const typename Wide<T>::type* weight,
           const typename Wide<T>::type* bias, int is_gated, const typename Wide<T>::type* dweight,
           const typename Wide<T>::type* dbias, int training, double count, T* dx, T* dresidual, Index rows,
           int columns, int channels, Index height) {
    typedef typename Wide<T>::type W;
    int column = (blockIdx.y * LANES + threadIdx.x) * V;
    if (column >= columns) return;
    Gate<W> gate[V];
    W shift[V], slope[V];
    for (int k = 0; k < V; k++) {
        int channel = (column + k) % channels;
        gate[k] = gate_of(channel, mean, invstd, weight, bias);
        shift[k] = static_cast<W>(dbias[channel] / count);
        slope[k] = static_cast<W>(dweight[channel] / count * invstd[channel]);
    }
    Index end = min(rows, (blockIdx.x + Index(1)) * height);
#pragma unroll 2
    for (Index row = blockIdx.x * height + threadIdx.y; row < end; row += TEAMS) {
        Index at = row * columns + column;
        Vector<T, V> g = load<V>(dy, at), v = {}, output = {};
        if (training || is_gated) v = load<V>(x, at);
        if (y) output = load<V>(y, at);
        for (int k = 0; k < V; k++) {
            if (y ? value(output.at[k]) <= 0 : is_gated && gate[k].is_shut(value(v.at[k]))) g.at[k] = T{};
            W shifted = value(g.at[k]);
            if (training) shifted -= shift[k] + (value(v.at[k]) - gate[k].centre) * slope[k];
            assign(v.at[k], shifted * gate[k].scale);
        }
        store(dx, at, v);
        if (dresidual) store(dresidual, at, g);
    }
}
