"""One operation of the C core at a time, each beside its control: ``python -m benchmarks.micro``."""
