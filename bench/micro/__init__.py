"""Small PTX programs that measure one property of the SM each: on a GPU its constants, in the timed mode the model."""
