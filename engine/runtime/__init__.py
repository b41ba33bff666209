"""The engine itself: threads, devices and the batches they run."""
