// Images of bytes to floats, on their way to a net.

// y (images, rows, line = columns * channels) from x (images, height, width, channels): image n is cut out at
// (crops[3 n], crops[3 n + 1]) and mirrored if crops[3 n + 2]; values (channels, 256) is what a byte becomes. V divides
// line.
template <typename T, int V>
__global__ void __launch_bounds__(256, 4)
crop_flip_normalize(const unsigned char* x, const T* values, const int* crops, int fill, T* y, int height, int width,
                    int channels, int rows, int line, Index size) {
    for (Index i = first_index() * V; i < size; i += index_step() * V) {
        Index image = i;
        int place = pop(image, line), row = pop(image, rows);
        const int* crop = crops + image * 3;
        Index h = Index(crop[0]) + row;
        Vector<T, V> v;
        for (int k = 0; k < V; k++) {
            int column = (place + k) / channels, channel = place + k - column * channels;
            Index w = Index(crop[1]) + (crop[2] ? line / channels - 1 - column : column);
            int byte = fill;
            if (0 <= h && h < height && 0 <= w && w < width)
                byte = x[((image * height + h) * width + w) * channels + channel];
            v.at[k] = values[channel * 256 + byte];
        }
        store(y, i, v);
    }
}
