"""The subcommands `superlink` and `supernode`: Flower's deployment with this project's certificates."""
