"""The commands, each in a file of its own. They read options, call the library and print."""
