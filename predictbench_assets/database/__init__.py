"""The database itself: addresses to engines, the schema and its migrations, errors, health, what `as_of` means.

Reads and writes of a stage belong in the room of that stage; nothing here knows one.
"""
