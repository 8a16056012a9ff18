"""The frame of every page: gate, navigation, the selected dataset. Runs on every address, cold or warm."""

import hmac
import os

import streamlit as st

from pages import shared

st.set_page_config(page_title="Signet", page_icon=":material/verified:", layout="wide")


def _password() -> str:
    try:
        return str(st.secrets.get("password", ""))
    except FileNotFoundError:
        return ""


def gate() -> None:
    """Stop here unless the visitor may pass: OIDC if `[auth]` is in the secrets, else a password if one is set."""
    try:
        has_auth = "auth" in st.secrets
    except FileNotFoundError:
        has_auth = False
    if has_auth:
        if not st.user.is_logged_in:
            st.title("Signet")
            st.button("Log in", type="primary", on_click=st.login)
            st.stop()
        return
    password = os.environ.get("SIGNET_PASSWORD") or _password()
    if not password or st.session_state.get("passed"):
        return
    st.title("Signet")
    with st.form("gate"):
        given = st.text_input("Password", type="password")
        if st.form_submit_button("Enter", type="primary"):
            if hmac.compare_digest(given.encode(), password.encode()):
                st.session_state.passed = True
                st.rerun()
            st.error("That is not the password.")
    st.stop()


gate()
page = st.navigation(shared.pages(), position="sidebar")
shared.frame()
page.run()
