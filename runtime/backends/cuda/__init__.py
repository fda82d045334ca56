"""What the GPU backends share: the context, arrays on the device, streams and the graphs recorded on them."""
