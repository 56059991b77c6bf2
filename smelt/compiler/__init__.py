"""The compiler: a graph becomes loops, loops become machine code."""
