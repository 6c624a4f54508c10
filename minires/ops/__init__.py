"""The operations: one file for each, its Function with forward and backward beside its public function."""

from minires.ops import tensor_methods

tensor_methods.install()
