"""The program in the container: reads ``job.json``, trains, leaves artifacts and a manifest.

Of cloudtune it imports the recipe, the manifest and the error tree only. Read it in this order: ``__main__`` (exit
codes), ``train`` (the run from top to bottom), then the rooms it names.
"""
