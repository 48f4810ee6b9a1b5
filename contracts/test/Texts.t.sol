// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vendor} from "./Vendor.sol";
import {Tables} from "../attestation/Tables.sol";
import {TcbText, TcbTexts} from "../attestation/TcbTexts.sol";
import {Text} from "../attestation/Text.sol";

/// @dev Gives the reader of TCB texts an outside.
contract TextsHarness {
    function tcbInfo(bytes memory text) external pure returns (TcbText memory, bytes memory) {
        return TcbTexts.tcbInfo(text);
    }

    function qeIdentity(bytes memory text) external pure returns (TcbText memory, bytes memory) {
        return TcbTexts.qeIdentity(text);
    }

    function number(bytes memory text) external pure returns (uint256 value, uint256 read) {
        (uint256 start,) = Text.bounds(text);
        (value, read) = Text.number(start);
        read -= start;
    }

    function time(bytes memory text) external pure returns (uint256 unix) {
        (uint256 start,) = Text.bounds(text);
        (unix,) = Text.time(start);
    }
}

/// @notice Checks that TCB texts are read as they were meant, and that a text one character away is refused or read as another.
contract TextsTest is Vendor {
    TextsHarness private harness = new TextsHarness();
    string private constant EIGHT = '{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0}';

    function refused(string memory text) private view {
        refused(text, Text.UnexpectedText.selector);
    }

    function refused(string memory text, bytes4 with) private view {
        (bool ok, bytes memory answer) = address(harness).staticcall(abi.encodeCall(harness.tcbInfo, (bytes(text))));
        require(!ok, "was taken");
        assertEq(keccak256(answer), keccak256(abi.encodePacked(with)));
    }

    function refusedIdentity(string memory text) private view {
        (bool ok, bytes memory answer) = address(harness).staticcall(abi.encodeCall(harness.qeIdentity, (bytes(text))));
        require(!ok, "was taken");
        assertEq(keccak256(answer), keccak256(abi.encodePacked(Text.UnexpectedText.selector)));
    }

    function withModules(string memory modules_) private pure returns (string memory) {
        return tcbInfo(DATES, "18", modules_, levels());
    }

    function withLevels(string memory levels_) private pure returns (string memory) {
        return tcbInfo(DATES, "18", modules(), levels_);
    }

    function withComponents(string memory sgx) private pure returns (string memory) {
        return withLevels(levelOf(sgx, "7", string.concat(EIGHT, ",", EIGHT), "UpToDate", ""));
    }

    function levelOf(string memory sgx, string memory pceSvn, string memory tdx, string memory status, string memory after_)
        private
        pure
        returns (string memory)
    {
        return string.concat(
            string.concat('{"tcb":{"sgxtcbcomponents":[', sgx, '],"pcesvn":', pceSvn, ',"tdxtcbcomponents":[', tdx),
            string.concat(']},"tcbDate":"2026-01-01T00:00:00Z","tcbStatus":"', status, '"', after_, "}")
        );
    }

    function table(string memory text) private view returns (bytes memory rows) {
        (, rows) = harness.tcbInfo(bytes(text));
    }

    /// @dev What the table says of the first level, which follows the one module's four bytes and the count of levels.
    function firstLevel(string memory text) private view returns (bytes memory) {
        return slice(table(text), 6, 41);
    }

    function test_info_readsWhatWasWritten() public view {
        (TcbText memory info, bytes memory rows) = harness.tcbInfo(bytes(tcbInfo()));
        assertEq(info.issueDate, 1_779_667_200);
        assertEq(info.nextUpdate, 1_782_259_200);
        assertEq(info.evaluation, 18);
        assertEq(bytes32(info.platform), bytes32(bytes8(hex"00a55a7000000000")));
        bytes memory expected = hex"0101010500_02";
        expected = bytes.concat(expected, hex"05050505050505050000000000000000", hex"00000200000000000000000000000000", hex"000d00");
        expected = bytes.concat(expected, hex"02020202020202020000000000000000", new bytes(16), hex"000504");
        assertEq(keccak256(rows), keccak256(expected));
    }

    function test_identity_readsWhatWasWritten() public view {
        string memory versions_ = string.concat(versionLevel("65535", "UpToDate"), ",", versionLevel("3", "Revoked"));
        (TcbText memory info, bytes memory rows) = harness.qeIdentity(bytes(qeIdentity(DATES, "65535", versions_)));
        assertEq(info.issueDate, 1_779_667_200);
        assertEq(info.nextUpdate, 1_782_259_200);
        assertEq(info.evaluation, 65_535);
        assertEq(bytes32(info.platform), bytes32(0));
        bytes memory expected = bytes.concat(hex"00000000ffffffff", hex"11", new bytes(15), hex"fbffffffffffffff", new bytes(8));
        expected = bytes.concat(expected, QE_SIGNER, hex"000202ffff00000306");
        assertEq(keccak256(rows), keccak256(expected));
    }

    function test_info_modulesManyOneOrNone() public view {
        assertEq(uint8(table(withModules(""))[0]), 0);
        string memory two = string.concat(
            module("03", string.concat(versionLevel("255", "UpToDate"), ",", versionLevel("4", "OutOfDate"))),
            ",",
            module("aF", versionLevel("0", "Revoked"))
        );
        bytes memory rows = table(withModules(string.concat('"tdxModuleIdentities":[', two, "],")));
        assertEq(keccak256(slice(rows, 0, 11)), keccak256(hex"02_0302ff000404_af010006"));
        refused(withModules('"tdxModuleIdentities":[],'));
        refused(withModules(string.concat('"tdxModuleIdentities":[', module("01", ""), "],")));
        refused(withModules(string.concat('"tdxModuleIdentities":[', two, ",],")));
        refused(withModules(string.concat('"tdxModuleIdentities":[', module("01", versionLevel("256", "UpToDate")), "],")));
    }

    function test_info_refusesTheModulesOfOthers() public view {
        bytes memory text = bytes(tcbInfo());
        uint256 changed = 0;
        for (uint256 i = 0; i + 18 < text.length; i++) {
            // Each run of zeros or F that says whose a module is, or what of it is compared.
            if (text[i] != '"' || (text[i + 17] != '"' && text[i + 97 < text.length ? i + 97 : i] != '"')) continue;
            if (text[i + 1] != "0" && text[i + 1] != "F") continue;
            if (text[i + 2] != text[i + 1] || text[i + 16] != text[i + 1]) continue;
            bytes1 before = text[i + 9];
            text[i + 9] = "1";
            refused(string(text));
            text[i + 9] = before;
            changed++;
        }
        // Signer, attributes and mask, of the module and of its one identity.
        assertEq(changed, 6);
        table(string(text));
    }

    function test_info_eachStatusHasItsNumber() public view {
        string[7] memory names = [
            "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
            "OutOfDateConfigurationNeeded", "Revoked"
        ];
        for (uint256 i = 0; i < names.length; i++) {
            bytes memory level_ = firstLevel(withLevels(level("5", "2", "13", names[i])));
            assertEq(uint8(level_[34]), i);
            refused(withLevels(level("5", "2", "13", string.concat(names[i], "x"))));
        }
        refused(withLevels(level("5", "2", "13", "")));
        refused(withLevels(level("5", "2", "13", "NotSupported")));
    }

    function test_info_advisoriesMeanNothing() public view {
        string memory all = string.concat(EIGHT, ",", EIGHT);
        string[3] memory notes =
            [',"advisoryIDs":[]', ',"advisoryIDs":["A-1"]', ',"advisoryIDs":["A-00000000000000000001","A-00000000000000000002","A-3"]'];
        bytes memory bare = table(withLevels(levelOf(all, "7", all, "UpToDate", "")));
        for (uint256 i = 0; i < notes.length; i++)
            assertEq(keccak256(table(withLevels(levelOf(all, "7", all, "UpToDate", notes[i])))), keccak256(bare));
        refused(withLevels(levelOf(all, "7", all, "UpToDate", ',"advisoryIDs":["A-1"]]')));
        refused(withLevels(levelOf(all, "7", all, "UpToDate", ',"advisoryIDs":{}')));
    }

    function test_info_componentsWithAndWithoutTheirKind() public view {
        string memory mixed = string.concat(
            '{"svn":1,"category":"BIOS","type":"Early Microcode Update"},{"svn":12},{"svn":255,"category":"OS/VMM"},',
            '{"svn":0},{"svn":0},{"svn":0},{"svn":0,"category":"BIOS"},{"svn":9},',
            '{"svn":0},{"svn":0},{"svn":7},{"svn":0},{"svn":0},{"svn":0},{"svn":10},{"svn":99}'
        );
        bytes memory expected = hex"010cff00000000090000070000000a63";
        assertEq(keccak256(slice(firstLevel(withComponents(mixed)), 0, 16)), keccak256(expected));
        string memory other = string.concat(
            '{"svn":4},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},', EIGHT
        );
        bytes memory level_ = firstLevel(withLevels(levelOf(mixed, "65535", other, "OutOfDate", "")));
        assertEq(keccak256(level_), keccak256(bytes.concat(expected, hex"04", new bytes(15), hex"ffff04")));
    }

    /// @dev Fifteen components and one of each kind, in the first place and in the last.
    function test_info_refusesComponentsWrittenWrongly() public view {
        string memory seven = '{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0}';
        string[16] memory wrong = [
            '{"svn":}', '{"svn":a}', '{"svn":256}', '{"svn":00}', '{"svn":01}', '{"svn":-1}', '{"svn":1.0}', '{"svn":1',
            '{"svm":1}', '{ "svn":1}', '{"svn":1]', '{"svn":/}', '{"svn"::}', '{"svn":1000}', '{"svn":25}}', '{"svn":12{}'
        ];
        for (uint256 i = 0; i < wrong.length; i++) {
            refused(withComponents(string.concat(wrong[i], ",", EIGHT, ",", seven)));
            refused(withComponents(string.concat(EIGHT, ",", seven, ",", wrong[i])));
        }
        table(withComponents(string.concat('{"svn":1},', EIGHT, ",", seven)));
        // A number ends, or has a comma after it.
        refused(withComponents(string.concat('{"svn":12"category":"BIOS"},', EIGHT, ",", seven)));
        refused(withComponents(string.concat('{"svn":1};', EIGHT, ",", seven)));
        refused(withComponents(string.concat('{"svn":12};', EIGHT, ",", seven)));
    }

    function test_info_refusesMoreOrFewerComponents() public view {
        string memory seven = '{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0},{"svn":0}';
        refused(withComponents(string.concat(EIGHT, ",", seven)));
        refused(withComponents(string.concat(EIGHT, ",", EIGHT, ',{"svn":0}')));
        refused(withComponents(string.concat(EIGHT, ",", EIGHT, ",", EIGHT)));
        refused(withComponents(string.concat(EIGHT, ",", seven, ',{"svn":1},{"svn":1}')));
        refused(withComponents(""));
        refused(withComponents(EIGHT));
    }

    function test_info_refusesNumbersThatAreNone() public view {
        string memory all = string.concat(EIGHT, ",", EIGHT);
        string[6] memory wrong = ["", "07", "65536", "999999", "-1", "7.0"];
        for (uint256 i = 0; i < wrong.length; i++) {
            refused(withLevels(levelOf(all, wrong[i], all, "UpToDate", "")));
            refused(tcbInfo(DATES, wrong[i], modules(), levels()));
        }
        refused(withLevels(""));
        refused(withLevels(string.concat(levels(), ",")));
    }

    function test_text_endsWhereItSays() public view {
        refused(string.concat(tcbInfo(), " "));
        refused(string.concat(tcbInfo(), "}"));
        refusedIdentity(string.concat(qeIdentity(), " "));
        bytes memory text = bytes(tcbInfo());
        for (uint256 length = 0; length < text.length; length += 7) {
            (bool ok,) = address(harness).staticcall(abi.encodeCall(harness.tcbInfo, (slice(text, 0, length))));
            require(!ok, "was taken");
        }
        refusedIdentity(tcbInfo());
        refused(qeIdentity());
    }

    /// @dev The last closing bracket of advisories stands past the end: what a text does not hold is not found for it.
    function test_text_findsNothingPastItsEnd() public view {
        string memory all = string.concat(EIGHT, ",", EIGHT);
        string memory open_ = levelOf(all, "7", all, "UpToDate", ',"advisoryIDs":["A-1"');
        bytes memory text = bytes(withLevels(open_));
        refused(string(slice(text, 0, text.length - 3)));
    }

    /// @dev As many rows as a table has room for, and one more.
    function test_table_holdsWhatFits() public view {
        string memory many = level("1", "0", "1", "UpToDate");
        for (uint256 i = 1; i < 29; i++) many = string.concat(many, ",", level("1", "0", "1", "UpToDate"));
        // 5 bytes of the module, 1 for the count, 29 levels of 35: 1,021 of 1,024.
        assertEq(table(withLevels(many)).length, 1_021);
        refused(withLevels(string.concat(many, ",", level("1", "0", "1", "UpToDate"))), Tables.TableTooLong.selector);
        string memory versions_ = string.concat(versionLevel("4", "OutOfDate"), ",", versionLevel("3", "OutOfDate"));
        string memory longer = string.concat('"tdxModuleIdentities":[', module("01", versions_), "],");
        assertEq(table(tcbInfo(DATES, "18", longer, many)).length, 1_023);
        versions_ = string.concat(versions_, ",", versionLevel("2", "OutOfDate"));
        longer = string.concat('"tdxModuleIdentities":[', module("01", versions_), "],");
        refused(tcbInfo(DATES, "18", longer, many), Tables.TableTooLong.selector);
    }

    /// @dev 2 bytes of counts, one module of 2 and 20 levels of 2, 28 levels of 35: to the last byte.
    function test_table_canBeFull() public view {
        string memory many = level("1", "0", "1", "UpToDate");
        string memory all = many;
        for (uint256 i = 1; i < 28; i++) all = string.concat(all, ",", many);
        string memory versions_ = versionLevel("0", "OutOfDate");
        for (uint256 i = 1; i < 20; i++) versions_ = string.concat(versionLevel(vm.toString(i), "OutOfDate"), ",", versions_);
        string memory modules_ = string.concat('"tdxModuleIdentities":[', module("01", versions_), "],");
        assertEq(table(tcbInfo(DATES, "18", modules_, all)).length, 1_024);
    }

    /// @dev Every character but those of a level's date: another one is refused, or is read as something else.
    function test_info_noCharacterIsOverlooked() public view {
        string memory text = withLevels(level("5", "2", "13", "UpToDate"));
        eachCharacter(bytes(text), abi.encodeCall(harness.tcbInfo, (bytes(text))));
    }

    function test_identity_noCharacterIsOverlooked() public view {
        string memory text = qeIdentity();
        eachCharacter(bytes(text), abi.encodeCall(harness.qeIdentity, (bytes(text))));
    }

    function eachCharacter(bytes memory text, bytes memory call) private view {
        (bool ok, bytes memory sound_) = address(harness).staticcall(call);
        require(ok, "the text itself is refused");
        bytes4 date = "Date";
        uint256 free = 0;
        for (uint256 i = 0; i < text.length; i++) {
            if (i >= 7 && bytes4(slice(text, i - 7, i - 3)) == date && text[i - 8] == "b") free = i + 20;
            if (i < free) continue;
            // Four bytes of the selector, an offset and a length come before the text.
            bytes1[3] memory others = [bytes1("9"), "~", "}"];
            for (uint256 j = 0; j < 3; j++) {
                if (text[i] == others[j]) continue;
                call[68 + i] = others[j];
                (bool taken, bytes memory answer) = address(harness).staticcall(call);
                require(!taken || keccak256(answer) != keccak256(sound_), "another text reads the same");
            }
            call[68 + i] = text[i];
        }
    }

    function test_time_inItsOneForm() public view {
        assertEq(harness.time("2026-06-01T00:00:00Z"), NOW);
        bytes memory text = "2026-06-01T00:00:00Z";
        uint8[6] memory marks = [4, 7, 10, 13, 16, 19];
        for (uint256 i = 0; i < 6; i++) {
            bytes1 before = text[marks[i]];
            text[marks[i]] = " ";
            (bool ok, bytes memory answer) = address(harness).staticcall(abi.encodeCall(harness.time, (text)));
            require(!ok, "was taken");
            assertEq(keccak256(answer), keccak256(abi.encodePacked(Text.UnexpectedText.selector)));
            text[marks[i]] = before;
        }
    }

    function test_number_upToItsSixthDigit() public view {
        (uint256 value, uint256 read) = harness.number("65535");
        require(value == 65_535 && read == 5, "largest");
        string[5] memory wrong = ["65536", "100000", "1000000", "", "00"];
        for (uint256 i = 0; i < wrong.length; i++) {
            (bool ok,) = address(harness).staticcall(abi.encodeCall(harness.number, (bytes(wrong[i]))));
            require(!ok, "was taken");
        }
    }
}
