"""Speed, measured beside the alternatives in the same run: `make bench`, or `python -m benchmarks NAME`."""
