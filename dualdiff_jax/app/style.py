"""The page's own style, beside Gradio's: pictures of few pixels stay sharp, tokens have colours, faults stand out."""

CSS = """\
.pictures img { image-rendering: pixelated; object-fit: contain !important; width: 100%; height: 100%;
  max-height: 320px; }
.pictures .thumbnail-item { max-height: 320px; }
.where { color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.fault { padding: 0.6rem 0.8rem; border-left: 4px solid #c0392b; background: rgb(192 57 43 / 0.12);
  overflow-wrap: anywhere; }
.tokens { font-size: 1.25rem; line-height: 2.1; overflow-wrap: anywhere; white-space: pre-wrap; }
.token { padding: 0.15rem 0.2rem; border-radius: 4px; margin-right: 2px; }
.token.hidden { color: var(--body-text-color-subdued); background: none; }
.token.special { font-size: 0.75rem; opacity: 0.7; }
.key { font-size: 0.85rem; color: var(--body-text-color-subdued); }
.pace { color: var(--body-text-color-subdued); }
.tokens mark { padding: 0.1rem 0.3rem; border-radius: 4px; }
.best { font-size: 1.25rem; }
.ranked { width: 100%; border-collapse: collapse; }
.ranked td, .ranked th { text-align: left; padding: 0.3rem 0.5rem; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--border-color-primary); }
.ranked .bar { display: inline-block; height: 0.7rem; margin-right: 0.4rem; background: #4f63d2; }
.seed { align-items: end; }
"""
