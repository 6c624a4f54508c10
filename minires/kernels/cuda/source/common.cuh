// What the kernels share: types of storage and of arithmetic, wide loads and stores, positions and loop steps.
typedef long long Index;  // of an element in an array: 32 bits would end at 2^31

struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

#ifdef __CUDACC__
__device__ inline float from_half_bits(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline unsigned short to_half_bits(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

// The type that numbers of type T are computed in.
template <typename T> struct Wide { typedef float type; };
template <> struct Wide<double> { typedef double type; };

__device__ inline float value(float x) { return x; }
__device__ inline double value(double x) { return x; }
__device__ inline float value(float16 x) { return from_half_bits(x.bits); }
__device__ inline float value(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

__device__ inline void assign(float& to, float x) { to = x; }
__device__ inline void assign(double& to, double x) { to = x; }
__device__ inline void assign(float16& to, float x) { to.bits = to_half_bits(x); }
__device__ inline void assign(bfloat16& to, float x) {
    unsigned bits = __float_as_uint(x);
    // To the nearest, ties to even; a NaN stays one whatever its last bits.
    to.bits = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

__device__ inline float infinity() { return __uint_as_float(0x7f800000); }

// V neighbours, moved in one access of up to 16 bytes.
template <typename T, int V> struct alignas(sizeof(T) * V) Vector { T at[V]; };

template <int V, typename T> __device__ inline Vector<T, V> load(const T* x, Index i) {
    return *reinterpret_cast<const Vector<T, V>*>(x + i);
}
template <int V, typename T> __device__ inline void store(T* x, Index i, const Vector<T, V>& values) {
    *reinterpret_cast<Vector<T, V>*>(x + i) = values;
}

// The same where an array may end within the vector.
template <int V, typename T> __device__ inline Vector<T, V> load(const T* x, Index i, Index size) {
    if (i + V <= size) return load<V>(x, i);
    Vector<T, V> values = {};
    for (int k = 0; k < V; k++)
        if (i + k < size) values.at[k] = x[i + k];
    return values;
}
template <int V, typename T> __device__ inline void store(T* x, Index i, Index size, const Vector<T, V>& values) {
    if (i + V <= size) return store<V>(x, i, values);
    for (int k = 0; k < V; k++)
        if (i + k < size) x[i + k] = values.at[k];
}

// for (Index i = first_index(); i < size; i += index_step()): any grid covers any size.
__device__ inline Index first_index() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline Index index_step() { return static_cast<Index>(gridDim.x) * blockDim.x; }

// i / d, and the remainder put into i's place for the next division; 32-bit division is five times as fast.
__device__ inline int pop(Index& i, int d) {
    Index quotient = i <= 0xffffffffLL ? static_cast<unsigned>(i) / static_cast<unsigned>(d) : i / d;
    int remainder = static_cast<int>(i - quotient * d);
    i = quotient;
    return remainder;
}
