#!/usr/bin/env bash
# Runs the CUDA kernels on a GPU under NVIDIA's compute-sanitizer: accesses out of bounds, reads of memory that nothing
# wrote, races in shared memory, and barriers that not all threads reach. Takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v compute-sanitizer >/dev/null || {
    echo "compute-sanitizer is missing: it comes with the CUDA toolkit" >&2
    exit 1
}
# Without CuPy's pool each array is an allocation of its own, and an access past its end is one out of bounds.
run='import sys, pytest
from minires.device import cupy
cupy().cuda.set_allocator(None)
sys.exit(pytest.main(sys.argv[1:]))'
for tool in memcheck initcheck racecheck synccheck; do
    echo "== $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 python -c "$run" -q -n 0 -m gpu \
        tests/test_kernels_conv.py tests/test_kernels_images.py tests/test_kernels_matmul.py tests/test_kernels_norm.py \
        tests/test_kernels_pool.py tests/test_kernels_reduction.py
done
