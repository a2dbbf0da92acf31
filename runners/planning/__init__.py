"""What a table takes before it is run: parameters, steps, operations, memory, hours, and what is not there yet."""
