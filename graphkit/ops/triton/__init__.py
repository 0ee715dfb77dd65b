"""GPU kernels in Triton: one program owns a row and a block of features, and adds in a fixed order.

Nothing here is imported before an op meets a CUDA tensor, so machines without Triton never load it.
Under ``TRITON_INTERPRET=1`` the same kernels run on CPU tensors; the tests use that.
"""
