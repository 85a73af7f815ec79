"""The command line: a module a command, which reads options, makes one call and prints the answer.

Belongs here: options, their checks, texts. Does not: whatever another command needs too, which is in the room of its
subject. No command imports another; `main` knows them all by name and loads the one that is called.
"""
