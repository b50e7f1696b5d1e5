"""Training: the loop on Ray Train and DeepSpeed, the order of batches, augmentation, and the encoder that training starts from."""
