"""`jobs`: commands that run on the cloud's machines, by the second."""

from cyclopts import App

from cloudcrest.cli import job_control, job_metrics, job_output, job_shell

app = App(name="jobs", help="Jobs: commands that run on the cloud's machines.")
app.command(job_control.list_jobs, name="list")
for asked in (job_control.run, job_control.show, job_control.cancel, job_control.delete):
    app.command(asked)
for shown in (job_output.logs, job_output.outputs, job_metrics.metrics, job_shell.shell):
    app.command(shown)
