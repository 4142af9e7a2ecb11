"""Tables of catalog."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "models",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("context_tokens", sa.BigInteger(), nullable=False),
        sa.Column("input_modalities", JSONB(), nullable=False),
        sa.Column("output_modalities", JSONB(), nullable=False),
        sa.Column("languages", JSONB(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("active_parameters", sa.BigInteger(), nullable=True),
        sa.Column("dimensions", sa.BigInteger(), nullable=True),
        sa.Column("base_model", sa.Text(), nullable=True),
        sa.Column("adapter_of", sa.Text(), nullable=True),
        sa.Column("quantized_from", sa.Text(), nullable=True),
        sa.Column("homepage", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("seed_sha256", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
    )
    op.create_index("ix_models_family", "models", ["family"])
    op.create_index("ix_models_task", "models", ["task"])
    op.create_table(
        "model_artifacts",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("quantization", sa.Text(), nullable=True),
        sa.Column("convert", sa.Text(), nullable=True),
        sa.Column("files", JSONB(), nullable=False),
        sa.Column("sources", JSONB(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name="fk_model_artifacts_model_id_models", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "position", name="pk_model_artifacts"),
    )
    op.create_table(
        "model_pulls",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("region", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("done_bytes", sa.BigInteger(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_model_pulls_model_id_models", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_model_pulls"),
        sa.UniqueConstraint("model_id", "region", name="uq_model_pulls_model_id_region"),
    )


def downgrade() -> None:
    """Drops the tables."""
    op.drop_table("model_pulls")
    op.drop_table("model_artifacts")
    op.drop_table("models")
