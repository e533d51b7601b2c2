"""A store in one SQLite file, for the processes of one machine.

========  =========================================================================================
schema    the file: its tables, its marks, who may open it: imports sqlite3
store     reads, transactions, leases
watcher   changes replayed from the file's log, awaited by inotify
inotify   the kernel's notice that a file in a folder was written
========  =========================================================================================
"""
