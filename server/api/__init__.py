"""HTTP: routes, rights, errors, metrics and the listening socket."""
