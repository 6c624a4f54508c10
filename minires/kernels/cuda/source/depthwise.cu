// Convolution of each channel with a filter of its own, w (r, s, channels), channels-last: gathered, without patches.

template <typename T, int V>
__global__ void __launch_bounds__(256, 3)
depthwise(const T* x, const T* w, T* y, int height, int width, int channels, int p, int q, int r, int s, int stride_h,
          int stride_w, int top, int left, int dilation_h, int dilation_w, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int channel = pop(image, channels), column = pop(image, q), row = pop(image, p);
        W sum[V] = {};
        for (int tap_h = 0; tap_h < r; tap_h++) {
            Index down = Index(row) * stride_h + Index(tap_h) * dilation_h - top;
            if (down < 0 || down >= height) continue;
            for (int tap_w = 0; tap_w < s; tap_w++) {
                Index across = Index(column) * stride_w + Index(tap_w) * dilation_w - left;
                if (across < 0 || across >= width) continue;
                Vector<T, V> pixel = load<V>(x, ((image * height + down) * width + across) * channels + channel);
                Vector<T, V> filter = load<V>(w, Index(tap_h * s + tap_w) * channels + channel);
                for (int k = 0; k < V; k++) sum[k] += value(pixel.at[k]) * value(filter.at[k]);
            }
        }
        Vector<T, V> v;
        for (int k = 0; k < V; k++) assign(v.at[k], sum[k]);
        store(y, i, v);
    }
}

// dx: each pixel gathers the outputs that it went into.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
depthwise_input_grad(const T* dy, const T* w, T* dx, int height, int width, int channels, int p, int q, int r, int s,
                     int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int channel = pop(image, channels), column = pop(image, width), row = pop(image, height);
        W sum[V] = {};
        for (int tap_h = 0; tap_h < r; tap_h++) {
            Index down = Index(row) + top - Index(tap_h) * dilation_h;
            if (down < 0 || down % stride_h != 0 || down / stride_h >= p) continue;
            for (int tap_w = 0; tap_w < s; tap_w++) {
                Index across = Index(column) + left - Index(tap_w) * dilation_w;
                if (across < 0 || across % stride_w != 0 || across / stride_w >= q) continue;
                Index at = ((image * p + down / stride_h) * q + across / stride_w) * channels + channel;
                Vector<T, V> gradient = load<V>(dy, at);
                Vector<T, V> filter = load<V>(w, Index(tap_h * s + tap_w) * channels + channel);
                for (int k = 0; k < V; k++) sum[k] += value(gradient.at[k]) * value(filter.at[k]);
            }
        }
        Vector<T, V> v;
        for (int k = 0; k < V; k++) assign(v.at[k], sum[k]);
        store(dx, i, v);
    }
}

// parts (chunks, r * s, channels): the sums of x times dy over `share` output pixels each, for one tap to a block.
// Block x is (chunk, tap, channels); short sums are in Wide<T>, long ones in double.
template <typename T, int V>
__global__ void __launch_bounds__(256)
depthwise_weight_grad(const T* x, const T* dy, double* parts, int height, int width, int channels, int p, int q, int r,
                      int s, int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int blocks,
                      Index share, Index pixels) {
    typedef typename Wide<T>::type W;
    const int LANES = 32, TEAMS = 8, BATCH = 4;
    __shared__ double shared[TEAMS][LANES * V];
    Index chunk = blockIdx.x;
    int lane = threadIdx.x, team = threadIdx.y, channel = (pop(chunk, blocks) * LANES + lane) * V;
    int tap = pop(chunk, r * s), tap_h = tap / s, tap_w = tap % s;
    Index end = min(pixels, (chunk + 1) * share);
    double total[V] = {};
    for (Index first = chunk * share + team; first < end && channel < channels; first += TEAMS * BATCH) {
        W sum[V] = {};
        for (int j = 0; j < BATCH; j++) {
            Index pixel = first + j * TEAMS, image = pixel;
            if (pixel >= end) break;
            int column = pop(image, q), row = pop(image, p);
            Index down = Index(row) * stride_h + Index(tap_h) * dilation_h - top;
            Index across = Index(column) * stride_w + Index(tap_w) * dilation_w - left;
            if (down < 0 || down >= height || across < 0 || across >= width) continue;
            Vector<T, V> input = load<V>(x, ((image * height + down) * width + across) * channels + channel);
            Vector<T, V> gradient = load<V>(dy, pixel * channels + channel);
            for (int k = 0; k < V; k++) sum[k] += value(input.at[k]) * value(gradient.at[k]);
        }
        for (int k = 0; k < V; k++) total[k] += sum[k];
    }
    for (int k = 0; k < V; k++) shared[team][lane * V + k] = total[k];
    __syncthreads();
    if (team > 0 || channel >= channels) return;
    for (int k = 0; k < V; k++) {
        for (int other = 1; other < TEAMS; other++) total[k] += shared[other][lane * V + k];
        parts[(chunk * r * s + tap) * channels + channel + k] = total[k];
    }
}
