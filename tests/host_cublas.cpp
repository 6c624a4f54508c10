// The few functions of cuBLAS that minires calls, in plain loops on host memory, after cuBLAS's documentation.
#include "cuda_host.h"

struct Handle {
    void* stream;
    size_t workspace;
};

static double read(const void* array, int type, long long i) {
    switch (type) {
        case 0: return static_cast<const float*>(array)[i];
        case 1: return static_cast<const double*>(array)[i];
        case 2: return from_half_bits(static_cast<const unsigned short*>(array)[i]);
        default: return __uint_as_float(static_cast<unsigned>(static_cast<const unsigned short*>(array)[i]) << 16);
    }
}

static void write(void* array, int type, long long i, double x) {
    float narrow = static_cast<float>(x);
    unsigned bits = __float_as_uint(narrow);
    switch (type) {
        case 0: static_cast<float*>(array)[i] = narrow; break;
        case 1: static_cast<double*>(array)[i] = x; break;
        case 2: static_cast<unsigned short*>(array)[i] = to_half_bits(narrow); break;
        default: static_cast<unsigned short*>(array)[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
}

extern "C" int cublasCreate_v2(Handle** handle) {
    *handle = new Handle{nullptr, 0};
    return 0;
}

extern "C" int cublasSetStream_v2(Handle* handle, void* stream) {
    *handle = {stream, 0};
    return 0;
}

extern "C" int cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t bytes) {
    if (reinterpret_cast<size_t>(workspace) % 16 != 0) return 7;  // CUBLAS_STATUS_INVALID_VALUE
    handle->workspace = bytes;
    return 0;
}

// C (m, n) = alpha op(A) op(B) + beta C by columns: element (i, j) of X lies at i + j * ldx. Where beta is 0, C is not
// read.
extern "C" int cublasGemmStridedBatchedEx(Handle*, int transa, int transb, int m, int n, int k, const void* alpha,
                                          const void* a, int a_type, int lda, long long a_step, const void* b,
                                          int b_type, int ldb, long long b_step, const void* beta, void* c, int c_type,
                                          int ldc, long long c_step, int batch, int compute, int) {
    if (m < 0 || n < 0 || k < 0 || lda < std::max(1, transa ? k : m) || ldb < std::max(1, transb ? n : k) ||
        ldc < std::max(1, m) || (compute == 70) != (c_type == 1) || a_type != b_type || a_type != c_type)
        return 7;
    double scale = read(alpha, compute == 70, 0), old = read(beta, compute == 70, 0);
    for (int matrix = 0; matrix < batch; matrix++)
        for (long long j = 0; j < n; j++)
            for (long long i = 0; i < m; i++) {
                double sum = 0;
                for (long long l = 0; l < k; l++) {
                    double x = read(a, a_type, matrix * a_step + (transa ? l + i * lda : i + l * lda));
                    sum += x * read(b, b_type, matrix * b_step + (transb ? j + l * ldb : l + j * ldb));
                }
                long long at = matrix * c_step + i + j * ldc;
                write(c, c_type, at, scale * sum + (old != 0 ? old * read(c, c_type, at) : 0));
            }
    return 0;
}
