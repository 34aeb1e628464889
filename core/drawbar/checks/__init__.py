"""What feature files can say about a run, and how it is checked.

`evidence` is what a run offers, `forms` are the sentences, `arguments` their words, and `search`
looks into the workspace and the logs.
"""
