"""What kernels and codecs cost, and what they are worth, beside memcpy and beside other libraries."""
