"""`jobs`: commands that run on the cloud's machines, by the second."""

from cyclopts import App

from cloudcrest.cli import job_output, job_shell

app = App(name="jobs", help="Jobs: commands that run on the cloud's machines.")
for shown in (job_output.logs, job_output.outputs, job_output.metrics, job_shell.shell):
    app.command(shown)
