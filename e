could not read program.elf
program.elf: No such file or directory
simavr: Unable to load firmware from file program.elf
