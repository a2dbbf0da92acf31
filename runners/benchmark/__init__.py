"""What `randlora bench` measures and how: workloads, subjects, steps, memory, counts."""
