"""The frame of every page: gate, navigation, the selected dataset. Runs on every address, cold or warm."""

import hmac
import os

import streamlit as st

from pages import shared, waiting

st.set_page_config(page_title="Signet", page_icon=":material/verified:", layout="wide")
# A square chart has a width of its own; on a narrow screen it becomes smaller instead of being cut off.
st.html('<style>[data-testid="stVegaLiteChart"] svg { max-width: 100%; height: auto; }</style>')


def _password() -> str:
    try:
        return str(st.secrets.get("password", ""))
    except FileNotFoundError:
        return ""


def passed() -> bool:
    """Whether the visitor may see anything: OIDC if `[auth]` is in the secrets, else a password if one is set."""
    try:
        if "auth" in st.secrets:
            return bool(st.user.is_logged_in)
    except FileNotFoundError:
        pass
    return not PASSWORD or bool(st.session_state.get("passed"))


def gate() -> None:
    """What a visitor who may not pass sees, on every address."""
    st.title("Signet")
    if not PASSWORD:
        st.button("Log in", type="primary", on_click=st.login)
        return
    with st.form("gate"):
        given = st.text_input("Password", type="password")
        if st.form_submit_button("Enter", type="primary"):
            if hmac.compare_digest(given.encode(), PASSWORD.encode()):
                st.session_state.passed = True
                st.rerun()
            st.error("That is not the password.")


PASSWORD = os.environ.get("SIGNET_PASSWORD") or _password()
# The router knows the pages before the gate, so that a deep link is still there after it.
page = st.navigation(shared.pages(), position="sidebar" if passed() else "hidden")
if not passed():
    gate()
    st.stop()
shared.frame()
waiting.begin()
page.run()
