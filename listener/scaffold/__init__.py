"""`pgherald init`: read an unknown database's catalog, infer a rule, and write it as TOML.

- `catalog` reads tables, columns and foreign keys. It reads no row and changes nothing.
- `infer` decides each setting of the rule, or says between which candidates it could not.
- `toml` writes the configuration. Settings that could not be inferred are marked CHANGE_ME, which
  `install` or `run` refuses.

Consent is never guessed: one column must be named unmistakably. The folder may import `db`, `config` and the ground.
"""
