"""The native floor: Cython modules over the C kernels. Private; use the names in `pystream`."""
