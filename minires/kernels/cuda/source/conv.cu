// Patches of channels-last images as rows of a matrix, and back.

// columns (groups, images * p * q, r * s * c): the patch under each output pixel, for c channels of each group.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
patches(const T* x, T* columns, int height, int width, int channels, int c, int p, int q, int r, int s, int stride_h,
        int stride_w, int top, int left, int dilation_h, int dilation_w, Index images, Index size) {
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index rest = i;
        int channel = pop(rest, c), tap_w = pop(rest, s), tap_h = pop(rest, r);
        int column = pop(rest, q), row = pop(rest, p);
        Index group = rest / images, image = rest - group * images;
        Index h = Index(row) * stride_h + Index(tap_h) * dilation_h - top;
        Index w = Index(column) * stride_w + Index(tap_w) * dilation_w - left;
        Vector<T, V> v = {};
        if (0 <= h && h < height && 0 <= w && w < width)
            v = load<V>(x, ((image * height + h) * width + w) * channels + group * c + channel);
        store(columns, i, v);
    }
}

// x (images, height, width, groups * c): each pixel sums the places of `columns` that were copied from it.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
from_patches(const T* columns, T* x, int height, int width, int channels, int c, int p, int q, int r, int s,
             int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, Index images, Index size) {
    typedef typename Wide<T>::type W;
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int channel = pop(image, channels), w = pop(image, width), h = pop(image, height);
        int group = channel / c;
        channel -= group * c;
        W sum[V] = {};
        for (int tap_h = 0; tap_h < r; tap_h++) {
            Index down = Index(h) + top - Index(tap_h) * dilation_h;
            if (down < 0 || down % stride_h != 0 || down / stride_h >= p) continue;
            for (int tap_w = 0; tap_w < s; tap_w++) {
                Index across = Index(w) + left - Index(tap_w) * dilation_w;
                if (across < 0 || across % stride_w != 0 || across / stride_w >= q) continue;
                Index pixel = ((group * images + image) * p + down / stride_h) * q + across / stride_w;
                Vector<T, V> v = load<V>(columns, ((pixel * r + tap_h) * s + tap_w) * c + channel);
                for (int k = 0; k < V; k++) sum[k] += value(v.at[k]);
            }
        }
        Vector<T, V> v;
        for (int k = 0; k < V; k++) assign(v.at[k], sum[k]);
        store(x, i, v);
    }
}
