// Batch norm over x as a matrix (rows, columns), channel = column % channels. What belongs to a channel is in Wide<T>.
//
// A block of 32 x 8 threads takes `height` rows of 32 * V columns; each thread goes down its V columns in steps of 8
// rows, BATCH rows at once, so that their loads are in flight together. Short sums are in Wide<T>, long ones in double.
const int LANES = 32, TEAMS = 8, BATCH = 4;

// The moments of two sets of numbers, joined: Chan, Golub and LeVeque 1979, equation 1.5.
__device__ inline void join(double& count, double& mean, double& square, double n, double m, double s) {
    double total = count + n;
    if (n == 0) return;
    double delta = m - mean, share = n / total;
    mean += delta * share;
    square += s + delta * delta * count * share;
    count = total;
}

// Mean and sum of squared deviations of each column within the rows of each block, both (chunks, columns).
template <typename T, int V>
__global__ void __launch_bounds__(256)
moments(const T* x, double* means, double* squares, Index rows, int columns, Index height) {
    typedef typename Wide<T>::type W;
    __shared__ double shared_mean[TEAMS][LANES * V], shared_square[TEAMS][LANES * V], shared_count[TEAMS];
    int lane = threadIdx.x, team = threadIdx.y, column = (blockIdx.y * LANES + lane) * V;
    Index end = min(rows, (blockIdx.x + Index(1)) * height);
    double mean[V] = {}, square[V] = {}, count = 0;
    for (Index row = blockIdx.x * height + team; row < end && column < columns; row += TEAMS * BATCH) {
        Vector<T, V> batch[BATCH];
        for (int j = 0; j < BATCH; j++)
            if (row + j * TEAMS < end) batch[j] = load<V>(x, (row + j * TEAMS) * columns + column);
        int n = static_cast<int>(min(Index(BATCH), (end - row + TEAMS - 1) / TEAMS));
        double joined = count;
        for (int k = 0; k < V; k++) {
            W first = value(batch[0].at[k]), sum = 0, spread = 0;  // differences to it are small and exact
            for (int j = 1; j < BATCH; j++)
                if (j < n) sum += value(batch[j].at[k]) - first;
            W centre = sum / n;
            for (int j = 0; j < BATCH; j++)
                if (j < n) {
                    W deviation = value(batch[j].at[k]) - first - centre;
                    spread += deviation * deviation;
                }
            joined = count;
            join(joined, mean[k], square[k], n, double(first) + centre, spread);
        }
        count = joined;
    }
    for (int k = 0; k < V; k++) {
        shared_mean[team][lane * V + k] = mean[k];
        shared_square[team][lane * V + k] = square[k];
    }
    if (lane == 0) shared_count[team] = count;
    __syncthreads();
    if (team > 0 || column >= columns) return;
    for (int k = 0; k < V; k++) {
        double joined = count;
        for (int other = 1; other < TEAMS; other++)
            join(joined, mean[k], square[k], shared_count[other], shared_mean[other][lane * V + k],
                 shared_square[other][lane * V + k]);
        means[Index(blockIdx.x) * columns + column + k] = mean[k];
        squares[Index(blockIdx.x) * columns + column + k] = square[k];
    }
}

// Mean and biased variance of each channel from the moments of its columns in all chunks: one warp a channel.
template <typename T>
__global__ void __launch_bounds__(256)
join_moments(const double* means, const double* squares, typename Wide<T>::type* mean, typename Wide<T>::type* var,
             Index rows, int columns, Index height, int chunks, int channels) {
    int channel = blockIdx.x * TEAMS + threadIdx.y, folds = columns / channels;
    double count = 0, centre = 0, square = 0;
    for (int part = threadIdx.x; channel < channels && part < chunks * folds; part += LANES) {
        int chunk = part / folds;
        Index at = Index(chunk) * columns + part % folds * channels + channel;
        join(count, centre, square, double(min(height, rows - chunk * height)), means[at], squares[at]);
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        double n = __shfl_down_sync(~0u, count, step), m = __shfl_down_sync(~0u, centre, step);
        double s = __shfl_down_sync(~0u, square, step);
        join(count, centre, square, n, m, s);
    }
    if (threadIdx.x == 0 && channel < channels) {
        mean[channel] = static_cast<typename Wide<T>::type>(centre);
        var[channel] = static_cast<typename Wide<T>::type>(count > 0 ? square / count : 0);
    }
}

// y = relu((x - mean) * invstd * weight + bias + residual); weight, bias and residual may be null.
template <typename T, int V>
__global__ void __launch_bounds__(256)
normalise(const T* x, const typename Wide<T>::type* mean, const typename Wide<T>::type* invstd,
          const typename Wide<T>::type* weight, const typename Wide<T>::type* bias, const T* residual, int is_relu, T* y,
          Index rows, int columns, int channels, Index height) {
    typedef typename Wide<T>::type W;
    int column = (blockIdx.y * LANES + threadIdx.x) * V;
    if (column >= columns) return;
    W centre[V], scale[V], shift[V];
    for (int k = 0; k < V; k++) {
        int channel = (column + k) % channels;
        centre[k] = mean[channel];
        scale[k] = invstd[channel] * (weight ? weight[channel] : W(1));
        shift[k] = bias ? bias[channel] : W(0);
    }
    Index end = min(rows, (blockIdx.x + Index(1)) * height);
#pragma unroll 4
    for (Index row = blockIdx.x * height + threadIdx.y; row < end; row += TEAMS) {
        Vector<T, V> v = load<V>(x, row * columns + column), added = {};
        if (residual) added = load<V>(residual, row * columns + column);
        for (int k = 0; k < V; k++) {
            W sum = (value(v.at[k]) - centre[k]) * scale[k] + shift[k] + value(added.at[k]);
            assign(v.at[k], is_relu && sum <= 0 ? W(0) : sum);
        }
        store(y, row * columns + column, v);
    }
}
