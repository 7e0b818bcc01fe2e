"""How S17's cells become fast recurrent layers (section 2.4, appendix A.1). Nothing is trained."""
