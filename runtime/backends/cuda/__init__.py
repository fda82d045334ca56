"""What the GPU backends share: the driver's context, arrays on the device, the queue and recordings of it."""
