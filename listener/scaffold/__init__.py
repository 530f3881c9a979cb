"""What `pgherald init` reads, infers and writes."""
