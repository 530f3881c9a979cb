"""The checks of `pgherald doctor`."""
