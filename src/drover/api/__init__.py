"""Drover's own JSON API: for `drover`, for other daemons, and for hosts that want to join.

module      holds
app         routes and who may use them
context     what the routes need of the daemon
server      the Unix socket and the TLS port the app is served on
views       pure: records to JSON
membership  pure: what a join, a removal, a label or a drain changes
founding    the first records of a cluster
joiner      the joining host's side of `POST /join`
answers     errors as JSON, both ways
"""
