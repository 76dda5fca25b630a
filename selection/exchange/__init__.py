"""People's answers: queries written out for annotation tools, and read back.

`export.export_round` writes packages, `importing.read_packages` reads and checks what people made of them,
`answers.RoundAnswers` keeps it in the round, `status` counts. `annotate.py` is the command line.
"""
