"""What training minimises: the diffusion loss and the Gram regularization."""
