// Cross entropy between logits (rows, classes) and a class for each row; see minires/ops/cross_entropy.py.
//
// The target of class t is a peak of (1 - smoothing) * weight[t] at t on a floor of smoothing / classes * weight[c].
// A row whose class is `ignored` counts for nothing; one whose class does not exist gives NaN. `weights` may be null.
const int LANES = 32, TEAMS = 8;

template <typename W> __device__ inline W sum_over_warp(W x) {
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_down_sync(~0u, x, step);
    return __shfl_sync(~0u, x, 0);
}
template <typename W> __device__ inline W max_over_warp(W x) {
    for (int step = LANES / 2; step > 0; step /= 2) x = max(x, __shfl_down_sync(~0u, x, step));
    return __shfl_sync(~0u, x, 0);
}

// The loss of each row, the weight of its class (0 where ignored), and log(sum of exp(z)): one warp a row.
template <typename T>
__global__ void __launch_bounds__(256)
cross_entropy(const T* z, const long long* targets, const T* weights, double smoothing, long long ignored,
              typename Wide<T>::type* losses, typename Wide<T>::type* factors, typename Wide<T>::type* logsums,
              int classes, Index rows) {
    typedef typename Wide<T>::type W;
    int lane = threadIdx.x;
    for (Index base = Index(blockIdx.x) * TEAMS; base < rows; base += Index(gridDim.x) * TEAMS) {
        Index row = base + threadIdx.y;
        int end = row < rows ? classes : 0;  // all lanes stay for the shuffles
        const T* logits = z + (row < rows ? row : 0) * classes;
        W largest = -W(infinity()), sum = 0, spread = 0, mass = 0;
        for (int c = lane; c < end; c += LANES) largest = max(largest, value(logits[c]));
        largest = max_over_warp(largest);
        for (int c = lane; c < end; c += LANES) {
            W shifted = value(logits[c]) - largest, weight = weights ? value(weights[c]) : W(1);
            sum += exp(shifted), spread += weight * shifted, mass += weight;
        }
        sum = sum_over_warp(sum), spread = sum_over_warp(spread), mass = sum_over_warp(mass);
        if (lane > 0 || row >= rows) continue;
        long long target = targets[row];
        bool counts = target != ignored, exists = 0 <= target && target < classes;
        W logsum = log(sum), weight = 0, loss = 0;
        if (counts) {
            weight = !exists ? W(infinity()) - W(infinity()) : weights ? value(weights[target]) : W(1);
            loss = weight;
            if (exists) loss *= W(1 - smoothing) * (logsum - (value(logits[target]) - largest));
            if (smoothing != 0) loss += W(smoothing / classes) * (mass * logsum - spread);
        }
        losses[row] = loss, factors[row] = weight, logsums[row] = largest + logsum;
    }
}

// dz = (softmax(z) * mass - target) * scale, with a scale for all rows or one for each. `weight_sum` (1,) may be null.
template <typename T>
__global__ void __launch_bounds__(256, 4)
cross_entropy_grad(const T* z, const typename Wide<T>::type* logsums, const long long* targets, const T* weights,
                   const typename Wide<T>::type* weight_sum, double smoothing, long long ignored,
                   const typename Wide<T>::type* scale, int scale_step, T* dz, int classes, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index(); i < size; i += index_step()) {
        Index row = i;
        int c = pop(row, classes);
        long long target = targets[row];
        W gradient = 0;
        if (target != ignored) {
            bool exists = 0 <= target && target < classes;
            W weight = weights ? value(weights[c]) : W(1), floor = W(smoothing / classes);
            W peak = exists && weights ? value(weights[target]) : W(1);
            peak = exists ? W(1 - smoothing) * peak : W(infinity()) - W(infinity());
            W mass = peak + floor * (weight_sum ? *weight_sum : W(classes));
            gradient = exp(value(z[i]) - logsums[row]) * mass - floor * weight - (c == target ? peak : W(0));
            gradient *= scale[row * scale_step];
        }
        assign(dz[i], gradient);
    }
}
