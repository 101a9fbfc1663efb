"""MLA decode kernels for NVIDIA Blackwell (SM100/SM103), written in CuTe DSL."""
