"""People's answers: queries written out for annotation tools, and read back.

`export.plan` and `export.write_packages` write packages, `importing.read_packages` reads and checks what
people made of them, `import_report.ImportReport` says what was found, `answers.RoundAnswers` keeps the
answers in the round, `earlier_run.EarlierLabels` takes those of another run over, `status` counts.
`annotate.py` is the command line.
"""
