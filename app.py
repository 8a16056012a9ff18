"""The dashboard: `streamlit run app.py`. The frame, the gate and the pages are in pages/main.py."""

import streamlit as st

app = st.App("pages/main.py")
