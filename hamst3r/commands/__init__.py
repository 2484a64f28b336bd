"""What the ``hamst3r`` command can do; one module per subcommand, see :mod:`hamst3r.cli`."""
