"""The Tensor Memory Accelerator: tensor maps, bulk and tensor copies, and their native form."""
